//! What Prometheus and Grafana make of an operator.

mod dashboards;
mod exporter;
mod inventory;
mod manifests;
mod prometheus;
mod series;
