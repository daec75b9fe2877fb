//! What Prometheus and Grafana make of an operator.

mod exporter;
mod inventory;
mod series;
