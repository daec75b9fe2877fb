#!/usr/bin/env bash
# The least that the mirror needs in a PVE cluster: a role, a user, and a token that can only look.
#
#   pve-role.sh [--pve 9] [--user mirror@pve] [--token read]      prints the commands
#   pve-role.sh --apply [...]                                     runs them: as root, on any node
#   pve-role.sh --remove [--apply] [...]                          takes all of it away again
#
#   --pve N         major version; on a node it is asked for, elsewhere 9 is assumed
#   --guest-ips     PVE 8 and older: also VM.Monitor, without which guest agents tell no addresses.
#                   There it also allows monitor commands and running programs in guests, so it is
#                   left out unless asked for. PVE 9 has VM.GuestAgent.Audit, which only reads.
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

usage() {
    sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
        --apply) apply=yes ;;
        --remove) remove=yes ;;
        --guest-ips) guest_ips=yes ;;
        --pve | --user | --token)
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

# Sys.Audit: node numbers, addresses, quorum. The others: guests, storages, pools. On `/`, for all.
privileges="VM.Audit Datastore.Audit Sys.Audit Pool.Audit"
if [ "$pve" -ge 9 ]; then
    privileges="$privileges VM.GuestAgent.Audit"
elif [ "$guest_ips" = yes ]; then
    privileges="$privileges VM.Monitor"
fi

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
    run pveum acl delete / --users "$user" --roles "$role"
    run pveum user delete "$user"
    run pveum role delete "$role"
    exit
fi

exists() {
    [ "$apply" = yes ] && pveum "$1" list --output-format json | grep "\"$2\":\"$3\"" >/dev/null
}

if exists role roleid "$role"; then
    run pveum role modify "$role" --privs "$privileges"
else
    run pveum role add "$role" --privs "$privileges"
fi
if ! exists user userid "$user"; then
    run pveum user add "$user" --comment "Inventory mirror, read only"
fi
run pveum acl modify / --users "$user" --roles "$role"
# Without privilege separation the token may do what the user may: look. The secret is shown once.
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
