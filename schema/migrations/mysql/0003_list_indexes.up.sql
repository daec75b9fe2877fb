-- What the lists of the API look for: tags of guests as rows of their own, and indexes.

-- Which guests have a tag. The guest's writer keeps it; it says what `pve_vm.tags` says.
CREATE TABLE pve_vm_tag (
    vm_id BIGINT NOT NULL,
    cluster_id BIGINT NOT NULL,
    tag VARCHAR(255) NOT NULL,
    PRIMARY KEY (vm_id, tag)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX pve_vm_tag_tag ON pve_vm_tag (tag, cluster_id, vm_id);
INSERT INTO pve_vm_tag (vm_id, cluster_id, tag)
WITH RECURSIVE part (vm_id, cluster_id, tag, rest) AS (
    SELECT id, cluster_id, CAST('' AS CHAR(300)), CONCAT(tags, ';') FROM pve_vm WHERE tags IS NOT NULL
    UNION ALL
    SELECT vm_id, cluster_id, LEFT(TRIM(SUBSTRING_INDEX(rest, ';', 1)), 300),
        SUBSTRING(rest, LOCATE(';', rest) + 1)
    FROM part WHERE rest <> ''
)
SELECT DISTINCT vm_id, cluster_id, tag FROM part WHERE tag <> '' AND CHAR_LENGTH(tag) <= 255;

-- Guests of a cluster in the order of the list, and what is asked of them most: no row is read to count them.
CREATE INDEX pve_vm_cluster_id ON pve_vm (cluster_id, id, status, is_template, kind);
CREATE INDEX pve_vm_cluster_id_vm_name ON pve_vm (cluster_id, vm_name);
CREATE INDEX pve_vm_vm_name ON pve_vm (vm_name);
CREATE INDEX pve_vm_vmid ON pve_vm (vmid);
CREATE INDEX pve_vm_node_name ON pve_vm (node_name, cluster_id);
CREATE INDEX pve_vm_pool ON pve_vm (pool, cluster_id);
CREATE INDEX template_instance_sync_task_id ON template_instance (sync_task_id);
