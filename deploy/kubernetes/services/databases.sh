#!/bin/bash
# PostgreSQL's image runs this once, on an empty data folder. It creates a role and its databases for each program.
set -euo pipefail
psql --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname=postgres \
  --set=hdvae="$POSTGRES_HDVAE_PASSWORD" --set=mlflow="$POSTGRES_MLFLOW_PASSWORD" <<'SQL'
CREATE ROLE hdvae LOGIN PASSWORD :'hdvae';
CREATE DATABASE hdvae OWNER hdvae;
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
REVOKE CONNECT ON DATABASE hdvae, mlflow, mlflow_auth FROM PUBLIC;
SQL
if [ -n "${POSTGRES_GRAFANA_PASSWORD:-}" ]; then # Grafana's dashboard of studies may only read
  psql --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname=hdvae \
    --set=grafana="$POSTGRES_GRAFANA_PASSWORD" <<'SQL'
CREATE ROLE grafana LOGIN PASSWORD :'grafana';
GRANT CONNECT ON DATABASE hdvae TO grafana;
ALTER DEFAULT PRIVILEGES FOR ROLE hdvae IN SCHEMA public GRANT SELECT ON TABLES TO grafana;
SQL
fi
