INSERT INTO pve_cluster (
    cluster_name, api_url, user_id, user_token, 
    is_enabled, is_schedulable, env
) VALUES (
    'my-cluster',
    'https://your-pve-host:8006',
    'your-user@pve',
    'your-api-token',
    1,  -- is_enabled: 启用数据自动上报
    1,  -- is_schedulable: 允许虚拟机调度
    'prod'
);

UPDATE pve_cluster SET is_enabled = 1 WHERE cluster_name = 'my-cluster';

UPDATE pve_cluster SET is_enabled = 0 WHERE cluster_name = 'my-cluster';

UPDATE pve_cluster SET is_schedulable = 0 WHERE cluster_name = 'my-cluster';
