DROP INDEX template_instance_sync_task_id ON template_instance;
DROP INDEX pve_vm_pool ON pve_vm;
DROP INDEX pve_vm_node_name ON pve_vm;
DROP INDEX pve_vm_vmid ON pve_vm;
DROP INDEX pve_vm_vm_name ON pve_vm;
DROP INDEX pve_vm_cluster_id_vm_name ON pve_vm;
DROP INDEX pve_vm_cluster_id ON pve_vm;
DROP TABLE IF EXISTS pve_vm_tag;
