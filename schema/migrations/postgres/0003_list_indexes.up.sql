-- What the lists of the API look for: tags of guests as rows of their own, and indexes.

-- Which guests have a tag. The guest's writer keeps it; it says what `pve_vm.tags` says.
CREATE TABLE pve_vm_tag (
    vm_id BIGINT NOT NULL,
    cluster_id BIGINT NOT NULL,
    tag VARCHAR(255) NOT NULL,
    PRIMARY KEY (vm_id, tag)
);
CREATE INDEX pve_vm_tag_tag ON pve_vm_tag (tag, cluster_id, vm_id);
INSERT INTO pve_vm_tag (vm_id, cluster_id, tag)
SELECT DISTINCT id, cluster_id, btrim(part) FROM pve_vm, regexp_split_to_table(tags, ';') AS part
WHERE btrim(part) <> '' AND char_length(btrim(part)) <= 255;

-- Guests of a cluster in the order of the list, and what is asked of them most: no row is read to count them.
CREATE INDEX pve_vm_cluster_id ON pve_vm (cluster_id, id, status, is_template, kind);
CREATE INDEX pve_vm_cluster_id_vm_name ON pve_vm (cluster_id, vm_name NULLS FIRST, id);
CREATE INDEX pve_vm_vm_name ON pve_vm (vm_name NULLS FIRST, id);
CREATE INDEX pve_vm_vmid ON pve_vm (vmid, id);
CREATE INDEX pve_vm_node_name ON pve_vm (node_name, cluster_id, id);
CREATE INDEX pve_vm_pool ON pve_vm (pool, cluster_id, id);
CREATE INDEX template_instance_sync_task_id ON template_instance (sync_task_id);

-- With the id behind, so that the list of one is in order already.
DROP INDEX pve_vm_node_id;
CREATE INDEX pve_vm_node_id ON pve_vm (node_id, id);
DROP INDEX template_sync_task_template_id;
CREATE INDEX template_sync_task_template_id ON template_sync_task (template_id, id);
DROP INDEX template_sync_task_cluster_id;
CREATE INDEX template_sync_task_cluster_id ON template_sync_task (cluster_id, id);
