#!/bin/bash
# Run once, when the primary's directory is made: the user that the replica copies as.
set -euo pipefail
password="$(cat /run/secrets/replication)"
psql --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" --set=password="$password" <<'SQL'
create role replication with replication login password :'password';
SQL
echo "host replication replication all scram-sha-256" >> "$PGDATA/pg_hba.conf"
