#!/usr/bin/env bash
# The least that the operator needs in a PVE cluster: roles, a user, and a token. Without --templates
# the token can only look; with it, it can also make templates, in one pool and on two storages.
#
#   pve-role.sh [--pve 9] [--user mirror@pve] [--token read]      prints the commands
#   pve-role.sh --templates --storage NAME [...]                  the same, with what templates need
#   pve-role.sh --apply [...]                                     runs them: as root, on any node
#   pve-role.sh --remove [--apply] [...]                          takes all of it away again
#
#   --pve N         major version; on a node it is asked for, elsewhere 9 is assumed
#   --guest-ips     PVE 8 and older: also VM.Monitor, without which guest agents tell no addresses.
#                   There it also allows monitor commands and running programs in guests, so it is
#                   left out unless asked for. PVE 9 has VM.GuestAgent.Audit, which only reads.
#   --templates     also what making, cloning and removing templates takes
#     --storage S   where their disks are made; may be given several times
#     --staging S   where images lie until a disk is made of them: a storage with files (local)
#     --pool P      the pool that their guests are put into (templates)
#     --bridge B    only for templates with a network card: its bridge, for example vmbr0
#
# Run once per cluster: users, roles and tokens are the cluster's. docs/privileges.md has the why.
set -euo pipefail

role=MirrorReader
user=mirror@pve
token="read"
pve=
apply=no
remove=no
guest_ips=no
templates=no
targets=()
staging=local
pool=templates
bridge=

usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
        --apply) apply=yes ;;
        --remove) remove=yes ;;
        --guest-ips) guest_ips=yes ;;
        --templates) templates=yes ;;
        --storage)
            [ $# -ge 2 ] || usage
            targets+=("$2")
            shift
            ;;
        --pve | --user | --token | --staging | --pool | --bridge)
            [ $# -ge 2 ] || usage
            declare "${1#--}=$2"
            shift
            ;;
        *) usage ;;
    esac
    shift
done

if [ "$apply" = yes ] && ! command -v pveum >/dev/null; then
    echo "pve-role.sh: no pveum here; --apply is for a PVE node" >&2
    exit 1
fi
if [ -z "$pve" ] && command -v pveversion >/dev/null; then
    pve=$(pveversion | sed -n 's|^pve-manager/\([0-9]*\)\..*|\1|p')
fi
case ${pve:=9} in *[!0-9]*) usage ;; esac

if [ "$templates" = yes ] && [ ${#targets[@]} -eq 0 ] && [ "$remove" = no ]; then
    echo "pve-role.sh: --templates needs --storage NAME: where the disks of templates are made" >&2
    exit 2
fi

# Sys.Audit: node numbers, addresses, quorum. The others: guests, storages, pools. On `/`, for all.
privileges="VM.Audit Datastore.Audit Sys.Audit Pool.Audit"
if [ "$pve" -ge 9 ]; then
    privileges="$privileges VM.GuestAgent.Audit"
elif [ "$guest_ips" = yes ]; then
    privileges="$privileges VM.Monitor"
fi

# What templates need, each on one path only (seen on PVE 9.2: without any of these a step fails).
# On the pool: making guests, and clones of them; VM.PowerMgmt starts a clone that is to be started.
guest_privileges="VM.Allocate VM.Audit VM.Clone VM.Config.CPU VM.Config.Disk VM.Config.HWType"
guest_privileges="$guest_privileges VM.Config.Memory VM.Config.Network VM.Config.Options VM.PowerMgmt"
# On the staging storage. Datastore.Allocate is what deleting an image there takes.
staging_privileges="Datastore.Allocate Datastore.AllocateTemplate Datastore.Audit"
target_privileges="Datastore.AllocateSpace Datastore.Audit"
# On the nodes: lets them fetch an image from an address. Without it images are sent.
fetch_privileges="Sys.AccessNetwork"
network_privileges="SDN.Use"

# Prints a command so that it can be pasted, and runs it if asked to.
run() {
    local word line=
    for word in "$@"; do
        case $word in *[!A-Za-z0-9@./_-]*) line="$line '$word'" ;; *) line="$line $word" ;; esac
    done
    printf '%s\n' "${line# }"
    if [ "$apply" = yes ]; then
        "$@"
    fi
}

if [ "$remove" = yes ]; then
    run pveum user token remove "$user" "$token"
    run pveum user delete "$user" # and every ACL of it
    run pveum role delete "$role"
    if [ "$templates" = yes ]; then
        for name in TemplateGuest TemplateStaging TemplateDisk TemplateFetch TemplateNetwork; do
            run pveum role delete "$name"
        done
        echo "# The pool $pool and its guests are left; so is the content of $staging."
    fi
    exit
fi

exists() {
    [ "$apply" = yes ] && pveum "$1" list --output-format json | grep "\"$2\":\"$3\"" >/dev/null
}

role() {
    if exists role roleid "$1"; then
        run pveum role modify "$1" --privs "$2"
    else
        run pveum role add "$1" --privs "$2"
    fi
}

role "$role" "$privileges"
if ! exists user userid "$user"; then
    run pveum user add "$user" --comment "pve-operator"
fi
run pveum acl modify / --users "$user" --roles "$role"
if [ "$templates" = yes ]; then
    # An ACL below `/` replaces the one on `/` there, so each has the reading role beside its own.
    role TemplateGuest "$guest_privileges"
    role TemplateStaging "$staging_privileges"
    role TemplateDisk "$target_privileges"
    role TemplateFetch "$fetch_privileges"
    if ! exists pool poolid "$pool"; then
        run pveum pool add "$pool" --comment "pve-operator: templates and their clones"
    fi
    run pveum acl modify "/pool/$pool" --users "$user" --roles "$role,TemplateGuest"
    staged=no
    for target in "${targets[@]}"; do
        roles="$role,TemplateDisk"
        if [ "$target" = "$staging" ]; then
            roles="$roles,TemplateStaging"
            staged=yes
        fi
        run pveum acl modify "/storage/$target" --users "$user" --roles "$roles"
    done
    if [ "$staged" = no ]; then
        run pveum acl modify "/storage/$staging" --users "$user" --roles "$role,TemplateStaging"
    fi
    run pveum acl modify /nodes --users "$user" --roles "$role,TemplateFetch"
    if [ -n "$bridge" ]; then
        role TemplateNetwork "$network_privileges"
        run pveum acl modify "/sdn/zones/localnetwork/$bridge" --users "$user" --roles TemplateNetwork
    fi
    # Images are put on a storage as the content `import`, beside what it takes already.
    content=
    if command -v pvesh >/dev/null; then
        content=$(pvesh get "/storage/$staging" --output-format json |
            sed -n 's/.*"content":"\([^"]*\)".*/\1/p')
    fi
    case ",${content:=backup,iso,vztmpl}," in
        *,import,*) ;;
        *) run pvesm set "$staging" --content "$content,import" ;;
    esac
fi
# Without privilege separation the token may do what the user may. The secret is shown once.
run pveum user token add "$user" "$token" --privsep 0

cat <<HELP

Then, in the mirror's database, with the secret that the last command showed:

    INSERT INTO pve_cluster (cluster_name, api_url, user_id, user_token, is_enabled, is_schedulable, env)
    VALUES ('my-cluster', 'https://NODE:8006', '$user!$token', 'SECRET', 1, 1, 'prod');
HELP
if [ -r /etc/pve/local/pve-ssl.pem ] && command -v openssl >/dev/null; then
    certificate=/etc/pve/local/pveproxy-ssl.pem
    [ -r "$certificate" ] || certificate=/etc/pve/local/pve-ssl.pem
    fingerprint=$(openssl x509 -in "$certificate" -noout -fingerprint -sha256)
    echo
    echo "and, unless a CA that the operator's system knows signed this node's certificate:"
    echo
    echo "    UPDATE pve_cluster SET tls_fingerprint = '${fingerprint#*=}' WHERE cluster_name = 'my-cluster';"
fi
