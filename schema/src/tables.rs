//! The tables as the queries see them; the truth is in `migrations/`, and a test compares the two.

diesel::table! {
    pve_cluster (id) {
        id -> BigInt,
        cluster_name -> Text,
        cluster_name_alias -> Nullable<Text>,
        env -> Nullable<Text>,
        datacenter -> Nullable<Text>,
        api_url -> Text,
        user_id -> Text,
        user_token -> Text,
        dns -> Nullable<Text>,
        describes -> Nullable<Text>,
        region -> Nullable<Text>,
        is_schedulable -> SmallInt,
        is_enabled -> SmallInt,
        tls_fingerprint -> Nullable<Text>,
        tls_ca -> Nullable<Text>,
        tls_insecure -> SmallInt,
        gmt_create -> Timestamp,
        gmt_modified -> Timestamp,
        creator -> Nullable<Text>,
        modifier -> Nullable<Text>,
    }
}

diesel::table! {
    pve_cluster_status (cluster_id) {
        cluster_id -> BigInt,
        is_ready -> SmallInt,
        reason -> Text,
        message -> Nullable<Text>,
        reason_since -> Nullable<Timestamp>,
        pve_version -> Nullable<Text>,
        quorate -> Nullable<SmallInt>,
        node_count -> Integer,
        online_node_count -> Integer,
        guest_count -> Integer,
        storage_count -> Integer,
        last_success -> Nullable<Timestamp>,
        last_error -> Nullable<Text>,
        last_error_at -> Nullable<Timestamp>,
        missing_privileges -> Nullable<Text>,
        learned_addresses -> Nullable<Text>,
        learned_ca -> Nullable<Text>,
        learned_fingerprints -> Nullable<Text>,
        presented_fingerprint -> Nullable<Text>,
        suspicious_since -> Nullable<Timestamp>,
        gmt_create -> Timestamp,
        gmt_modified -> Timestamp,
        missing_template_privileges -> Nullable<Text>,
    }
}

diesel::table! {
    pve_node (id) {
        id -> BigInt,
        node_name -> Text,
        ip_address -> Nullable<Text>,
        cluster_id -> BigInt,
        is_schedulable -> SmallInt,
        env -> Nullable<Text>,
        status -> Text,
        pve_version -> Nullable<Text>,
        cpu_num -> Nullable<Integer>,
        memory_size -> Nullable<BigInt>,
        annotations -> Nullable<Text>,
        vm_limit -> Nullable<Integer>,
        gmt_create -> Timestamp,
        gmt_modified -> Timestamp,
        creator -> Nullable<Text>,
        modifier -> Nullable<Text>,
        resource_hash -> Text,
        last_sync_time -> Nullable<Timestamp>,
        last_seen -> Nullable<Timestamp>,
        revision -> BigInt,
    }
}

diesel::table! {
    pve_vm (id) {
        id -> BigInt,
        vm_name -> Nullable<Text>,
        node_id -> Nullable<BigInt>,
        node_name -> Text,
        vmid -> BigInt,
        kind -> Text,
        cpu_num -> Nullable<Integer>,
        memory_size -> Nullable<BigInt>,
        storages -> Nullable<Text>,
        storage_cfg -> Nullable<Text>,
        details_at -> Nullable<Timestamp>,
        appid -> Nullable<Text>,
        cluster_id -> BigInt,
        status -> Text,
        is_template -> SmallInt,
        template_id -> Nullable<BigInt>,
        vm_user -> Nullable<Text>,
        vm_password -> Nullable<Text>,
        node_ip -> Nullable<Text>,
        descriptions -> Nullable<Text>,
        lock -> Nullable<Text>,
        tags -> Nullable<Text>,
        pool -> Nullable<Text>,
        ha_state -> Nullable<Text>,
        gmt_create -> Timestamp,
        gmt_modified -> Timestamp,
        creator -> Nullable<Text>,
        modifier -> Nullable<Text>,
        resource_hash -> Text,
        last_sync_time -> Nullable<Timestamp>,
        last_seen -> Nullable<Timestamp>,
        revision -> BigInt,
    }
}

diesel::table! {
    pve_storage (id) {
        id -> BigInt,
        node_name -> Text,
        cluster_id -> BigInt,
        active -> SmallInt,
        #[sql_name = "type"]
        kind -> Text,
        avail -> Nullable<BigInt>,
        storage_name -> Text,
        content -> Nullable<Text>,
        used -> Nullable<BigInt>,
        total -> Nullable<BigInt>,
        enabled -> SmallInt,
        used_fraction -> Nullable<Double>,
        shared -> SmallInt,
        gmt_create -> Timestamp,
        gmt_modified -> Timestamp,
        creator -> Nullable<Text>,
        modifier -> Nullable<Text>,
        resource_hash -> Text,
        last_sync_time -> Nullable<Timestamp>,
        last_seen -> Nullable<Timestamp>,
        revision -> BigInt,
    }
}

diesel::table! {
    pve_vm_tag (vm_id, tag) {
        vm_id -> BigInt,
        cluster_id -> BigInt,
        tag -> Text,
    }
}

diesel::table! {
    vm_ipaddress (id) {
        id -> BigInt,
        ip_address -> Text,
        network_id -> Nullable<Text>,
        nic_name -> Text,
        vm_id -> BigInt,
        mac_address -> Nullable<Text>,
        cluster_id -> BigInt,
        stale -> SmallInt,
        gmt_create -> Timestamp,
        gmt_modified -> Timestamp,
        creator -> Nullable<Text>,
        modifier -> Nullable<Text>,
    }
}

diesel::table! {
    vm_template (id) {
        id -> BigInt,
        template_name -> Text,
        cluster_id -> BigInt,
        description -> Nullable<Text>,
        status -> Text,
        blocked_reason -> Nullable<Text>,
        generation -> BigInt,
        observed_generation -> BigInt,
        revision -> BigInt,
        deleted_id -> BigInt,
        gmt_create -> Timestamp,
        gmt_modified -> Timestamp,
        creator -> Nullable<Text>,
        modifier -> Nullable<Text>,
        desired -> Text,
    }
}

diesel::table! {
    template_upload (id) {
        id -> BigInt,
        template_id -> BigInt,
        version -> Integer,
        cluster_id -> BigInt,
        storage_id -> BigInt,
        storage_name -> Text,
        storage_type -> Nullable<Text>,
        is_shared -> SmallInt,
        upload_node_id -> Nullable<BigInt>,
        upload_node_name -> Nullable<Text>,
        file_name -> Text,
        file_path -> Nullable<Text>,
        file_size -> BigInt,
        file_format -> Nullable<Text>,
        sha256 -> Nullable<Text>,
        sha512 -> Nullable<Text>,
        os_type -> Nullable<Text>,
        cores -> Nullable<Integer>,
        memory_mb -> Nullable<Integer>,
        bridge -> Nullable<Text>,
        status -> Text,
        import_progress -> Integer,
        error_message -> Nullable<Text>,
        attempt -> Integer,
        generation -> BigInt,
        observed_generation -> BigInt,
        revision -> BigInt,
        deleted_id -> BigInt,
        gmt_create -> Timestamp,
        gmt_modified -> Timestamp,
        creator -> Nullable<Text>,
        modifier -> Nullable<Text>,
        virtual_size -> Nullable<BigInt>,
        ova_disk -> Nullable<Text>,
    }
}

diesel::table! {
    template_instance (id) {
        id -> BigInt,
        template_id -> BigInt,
        upload_id -> BigInt,
        cluster_id -> BigInt,
        node_id -> BigInt,
        node_name -> Text,
        storage_id -> Nullable<BigInt>,
        storage_name -> Text,
        is_shared -> SmallInt,
        vmid -> BigInt,
        volume_id -> Nullable<Text>,
        status -> Text,
        sync_task_id -> Nullable<BigInt>,
        is_primary -> SmallInt,
        error_message -> Nullable<Text>,
        blocked_reason -> Nullable<Text>,
        generation -> BigInt,
        observed_generation -> BigInt,
        revision -> BigInt,
        deleted_id -> BigInt,
        gmt_create -> Timestamp,
        gmt_modified -> Timestamp,
        creator -> Nullable<Text>,
        modifier -> Nullable<Text>,
        desired -> Text,
        attempt -> Integer,
        failures -> Integer,
        step -> Nullable<Text>,
        progress -> Integer,
        bytes_done -> BigInt,
        bytes_total -> Nullable<BigInt>,
        staging_storage -> Nullable<Text>,
        staged_file -> Nullable<Text>,
        upid -> Nullable<Text>,
        asked -> Nullable<Text>,
        asked_at -> Nullable<Timestamp>,
        started_at -> Nullable<Timestamp>,
        ended_at -> Nullable<Timestamp>,
    }
}

diesel::table! {
    template_sync_task (id) {
        id -> BigInt,
        template_id -> BigInt,
        upload_id -> BigInt,
        cluster_id -> BigInt,
        source_node_id -> Nullable<BigInt>,
        source_node_name -> Nullable<Text>,
        target_node_id -> BigInt,
        target_node_name -> Text,
        storage_name -> Text,
        file_path -> Nullable<Text>,
        file_size -> BigInt,
        status -> Text,
        progress -> Integer,
        step -> Nullable<Text>,
        bytes_done -> BigInt,
        bytes_total -> Nullable<BigInt>,
        sync_start_time -> Nullable<Timestamp>,
        sync_end_time -> Nullable<Timestamp>,
        error_message -> Nullable<Text>,
        attempt -> Integer,
        generation -> BigInt,
        observed_generation -> BigInt,
        revision -> BigInt,
        gmt_create -> Timestamp,
        gmt_modified -> Timestamp,
        creator -> Nullable<Text>,
    }
}

diesel::table! {
    template_clone (id) {
        id -> BigInt,
        template_id -> BigInt,
        upload_id -> BigInt,
        cluster_id -> BigInt,
        node_id -> BigInt,
        node_name -> Text,
        guest_name -> Text,
        is_full -> SmallInt,
        storage_name -> Nullable<Text>,
        cores -> Nullable<Integer>,
        memory_mb -> Nullable<Integer>,
        is_started -> SmallInt,
        vmid -> BigInt,
        source_vmid -> BigInt,
        status -> Text,
        step -> Nullable<Text>,
        upid -> Nullable<Text>,
        asked_at -> Nullable<Timestamp>,
        error_message -> Nullable<Text>,
        revision -> BigInt,
        gmt_create -> Timestamp,
        gmt_modified -> Timestamp,
        creator -> Nullable<Text>,
    }
}

diesel::table! {
    template_leftover (id) {
        id -> BigInt,
        cluster_id -> BigInt,
        instance_id -> BigInt,
        node_name -> Text,
        kind -> Text,
        vmid -> BigInt,
        volume_id -> Text,
        reason -> Nullable<Text>,
        gmt_create -> Timestamp,
        gmt_modified -> Timestamp,
    }
}

diesel::table! {
    resumable_upload (id) {
        id -> Text,
        cluster_id -> BigInt,
        metadata -> Text,
        total_bytes -> BigInt,
        received_bytes -> BigInt,
        status -> Text,
        epoch -> BigInt,
        holder -> Nullable<Text>,
        held_until -> Nullable<Timestamp>,
        expires_at -> Timestamp,
        result -> Nullable<Text>,
        error_code -> Nullable<Integer>,
        error_reason -> Nullable<Text>,
        error_message -> Nullable<Text>,
        gmt_create -> Timestamp,
        gmt_modified -> Timestamp,
        creator -> Text,
    }
}

diesel::table! {
    installation (name) {
        name -> Text,
        value -> Text,
    }
}

diesel::table! {
    idempotency_key (id) {
        id -> BigInt,
        actor -> Text,
        request_key -> Text,
        request_sha256 -> Text,
        holder -> Text,
        lease_until -> Timestamp,
        effects -> BigInt,
        status -> Nullable<Integer>,
        headers -> Nullable<Text>,
        body -> Nullable<Text>,
        gmt_create -> Timestamp,
    }
}

diesel::table! {
    vmid_reservation (cluster_id, vmid) {
        cluster_id -> BigInt,
        vmid -> BigInt,
        holder -> Text,
        instance_id -> Nullable<BigInt>,
        expires_at -> Nullable<Timestamp>,
        gmt_create -> Timestamp,
    }
}

diesel::table! {
    cluster_lease (cluster_id) {
        cluster_id -> BigInt,
        holder -> Text,
        epoch -> BigInt,
        expires_at -> Timestamp,
        gmt_create -> Timestamp,
        gmt_modified -> Timestamp,
    }
}

diesel::table! {
    api_token (id) {
        id -> BigInt,
        name -> Text,
        token_sha256 -> Text,
        scope -> Text,
        expires_at -> Nullable<Timestamp>,
        last_used_at -> Nullable<Timestamp>,
        revoked_at -> Nullable<Timestamp>,
        gmt_create -> Timestamp,
        creator -> Nullable<Text>,
    }
}

diesel::table! {
    audit_event (id) {
        id -> BigInt,
        gmt_create -> Timestamp,
        actor -> Text,
        action -> Text,
        object_kind -> Text,
        object_name -> Nullable<Text>,
        cluster_name -> Nullable<Text>,
        remote_address -> Nullable<Text>,
        request_id -> Nullable<Text>,
        result -> Text,
        detail -> Nullable<Text>,
    }
}

diesel::table! {
    table_revision (table_name) {
        table_name -> Text,
        revision -> BigInt,
        pruned -> BigInt,
    }
}

diesel::table! {
    tombstone (id) {
        id -> BigInt,
        table_name -> Text,
        cluster_id -> BigInt,
        row_id -> BigInt,
        row_key -> Text,
        revision -> BigInt,
        gmt_create -> Timestamp,
    }
}

diesel::allow_tables_to_appear_in_same_query!(pve_cluster, pve_node, pve_vm, pve_storage);
