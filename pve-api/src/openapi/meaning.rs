//! What the names of parameters mean, the same for every route.

/// A sentence for whoever reads the description. A test sees that none is empty.
pub(super) fn meaning(name: &str) -> &'static str {
    match name {
        "id" => "The row's id.",
        "Idempotency-Key" => "A repeat with the same key within 24 hours gets the first answer.",
        "page" => "Which page, from 1.",
        "page_size" => "How many rows a page has.",
        "sort" => "By what, `-` for from the last to the first; equal ones by id.",
        "after" => "Goes on after the row with this id, newest id first; without `page`.",
        "cluster_id" => "Of the cluster with this id.",
        "cluster_name" => "Of the cluster with this name.",
        "node_id" => "Of the node with this id.",
        "node_name" => "Of the nodes with this name.",
        "name" | "template_name" => "With exactly this name.",
        "status" => "In this state.",
        "vmid" => "With this VMID, which is unique in one cluster only.",
        "tag" => "With this tag among its tags.",
        "pool" => "In this resource pool of PVE.",
        "is_template" => "Templates only, or everything else.",
        "kind" => "Virtual machines (`qemu`) or containers (`lxc`).",
        "type" => "Of this type of PVE storage, as in `dir` or `rbd`.",
        "shared" => "Shared between nodes, or local.",
        "template_id" => "Of the template with this id.",
        "include_instances" => "Whether `instances` is filled in.",
        "cascade" => "Whether the guests on all nodes are deleted too.",
        "since" => {
            "What came after: a revision, as the last message of a watch told it, or a moment in the \
             record of changes."
        }
        "Last-Event-ID" => "The same as `since`, and stronger: browsers send it by themselves.",
        "Tus-Resumable" => "The version of the protocol.",
        "Upload-Length" => "How many bytes there will be.",
        "Upload-Offset" => "How many bytes are there already.",
        "Upload-Metadata" => "Names and base64, as in `filename eC5xY293Mg==,cluster_id MQ==`.",
        "Upload-Checksum" => "Algorithm and digest in base64 of this request's bytes.",
        "X-HTTP-Method-Override" => "The method that is meant.",
        "env" => "Of this environment.",
        "datacenter" => "In this data centre.",
        "region" => "In this region.",
        "is_enabled" => "Those that are mirrored, or the others.",
        "force" => "Does what would be refused because it is seldom meant.",
        "actor" => "By the token, or command, of this name.",
        "action" => "Of this kind of change, as in `cluster.create`.",
        "object_kind" => "Of this kind of thing, as in `cluster`.",
        "object_name" => "Of the thing with this name.",
        "result" => "`done`, or the reason of a refusal in one word.",
        "until" => "Before this moment.",
        _ => "",
    }
}
