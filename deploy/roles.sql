-- The roles of the service, for a new database. `accepted_owner` migrates; every process of the service logs in as
-- `accepted`, which reads and writes rows, and can neither change the schema nor run programs. An application that
-- submits jobs in its own transactions (docs/transactions.md) is a member of `accepted_submitter`, which may call
-- `accepted.submit` and nothing else. As the superuser:
--
--     MIGRATE_PASSWORD=… SERVICE_PASSWORD=… psql --file=deploy/roles.sql DATABASE

\set ON_ERROR_STOP on
\getenv migrate_password MIGRATE_PASSWORD
\getenv service_password SERVICE_PASSWORD

CREATE ROLE accepted_owner LOGIN NOINHERIT PASSWORD :'migrate_password';
CREATE ROLE accepted LOGIN NOINHERIT PASSWORD :'service_password';
CREATE ROLE accepted_submitter NOLOGIN;

SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database()) \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO accepted_owner, accepted, accepted_submitter', current_database()) \gexec
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

CREATE SCHEMA accepted AUTHORIZATION accepted_owner;
GRANT USAGE ON SCHEMA accepted TO accepted, accepted_submitter;
ALTER DEFAULT PRIVILEGES FOR ROLE accepted_owner IN SCHEMA accepted
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO accepted;
ALTER DEFAULT PRIVILEGES FOR ROLE accepted_owner IN SCHEMA accepted
    GRANT EXECUTE ON FUNCTIONS TO accepted_submitter;
