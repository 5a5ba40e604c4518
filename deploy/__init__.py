"""Running the product: the Helm chart in ``helm/etegrec`` and what checks it, alert rules, the Grafana dashboard."""
