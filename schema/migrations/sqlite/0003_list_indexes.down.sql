DROP INDEX template_instance_sync_task_id;
DROP INDEX pve_vm_pool;
DROP INDEX pve_vm_node_name;
DROP INDEX pve_vm_vmid;
DROP INDEX pve_vm_vm_name;
DROP INDEX pve_vm_cluster_id_vm_name;
DROP INDEX pve_vm_cluster_id;
DROP TABLE IF EXISTS pve_vm_tag;
