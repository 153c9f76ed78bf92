"""Statements that want more than to read: each must be refused or stopped, and change nothing."""

from __future__ import annotations

ENDLESS = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) "

BOTH = (
    "DELETE FROM latent",
    "DELETE FROM review_event",
    "UPDATE run SET status = 'done'",
    "UPDATE effective_label SET outcome = 'none'",
    "INSERT INTO prompt (sha256, name, text) VALUES ('a', 'b', 'c')",
    "INSERT INTO latent SELECT * FROM latent",
    "DROP VIEW v_coverage",
    "DROP TABLE review_event",
    "DROP TABLE alembic_version",
    "ALTER TABLE latent ADD COLUMN mine INTEGER",
    "ALTER TABLE latent RENAME TO gone",
    "CREATE TABLE mine (id INTEGER)",
    "CREATE TABLE mine AS SELECT * FROM latent",
    "CREATE TEMP TABLE mine (id INTEGER)",
    "CREATE VIEW mine AS SELECT 1",
    "CREATE INDEX mine ON latent (density)",
    "REINDEX latent",
    "ANALYZE",
    "VACUUM",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT mine",
    "ROLLBACK; DELETE FROM latent",
    "COMMIT; DELETE FROM latent",
    "SELECT 1; DELETE FROM latent",
    "SELECT 1; SELECT 2",
    "SELECT 1) AS question; DROP TABLE review_event; SELECT * FROM (SELECT 1",
    "SELECT 1 -- ;\n; DELETE FROM latent",
    "SELECT 1 /* ; */ ; DELETE FROM latent",
    "WITH gone AS (DELETE FROM latent RETURNING id) SELECT * FROM gone",
    "WITH mine AS (INSERT INTO prompt (sha256, name, text) VALUES ('a', 'b', 'c') RETURNING id)"
    " SELECT * FROM mine",
    "WITH t AS (SELECT 1) DELETE FROM latent",
    "WITH t AS (SELECT 1) UPDATE run SET status = 'done'",
    "SELECT load_extension('evil')",
    "SELECT writefile('/tmp/difflens-mine', 'x')",
    "SELECT readfile('/etc/passwd')",
    "SELECT edit('x')",
    "\x00SELECT 1",
)
"""Wrong on either database."""

SQLITE = (
    "ATTACH '{folder}/made.db' AS other",
    "ATTACH 'file:{folder}/made.db?mode=rwc' AS other",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "PRAGMA query_only = 0",
    "PRAGMA writable_schema = 1",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA user_version = 9",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "PRAGMA temp_store_directory = '{folder}'",
    "PRAGMA hard_heap_limit = 1",
    "VACUUM INTO '{folder}/copy.db'",
    "VACUUM main INTO '{folder}/copy.db'",
    "REPLACE INTO prompt (id, sha256, name, text) VALUES (1, 'a', 'b', 'c')",
    "INSERT INTO sqlite_master VALUES ('table', 'x', 'x', 2, 'CREATE TABLE x (y)')",
    "UPDATE sqlite_master SET sql = ''",
    "CREATE TRIGGER mine AFTER INSERT ON run BEGIN DELETE FROM latent; END",
    "CREATE VIRTUAL TABLE mine USING fts5(x)",
    "DROP TRIGGER tr_difflens_review_event_DELETE",
    "EXPLAIN DELETE FROM latent",
    "SELECT * FROM pragma_table_info('latent')",
    "SELECT zeroblob(1000000000)",
    "SELECT randomblob(1000000000)",
    "SELECT printf('%.*c', 1000000000, 'x')",
    "SELECT fts3_tokenizer('simple')",
    "SELECT fts3_tokenizer('simple', x'0000000000000000')",
    "SELECT sqlite_log(1, 'x')",
    "SELECT json_extract(text, '$') FROM prompt UNION SELECT load_extension('{folder}/evil.so')",
)
"""Refused on SQLite; `{folder}` is a folder that stays empty."""

SQLITE_BOMBS = (
    ENDLESS + "SELECT count(*) FROM t",
    ENDLESS + "SELECT n FROM t ORDER BY n DESC",
    ENDLESS + "SELECT group_concat(n) FROM t",
    "WITH RECURSIVE t(s) AS (SELECT 'xxxxxxxxxx' UNION ALL SELECT s || s FROM t) SELECT * FROM t",
    "SELECT count(*) FROM latent a, latent b, latent c, latent d, latent e, latent f, latent g,"
    " latent h, latent i, latent j, latent k, latent l, latent m, latent n, latent o",
)
"""Stopped on SQLite by the deadline or a limit."""

_MEGABYTES = (
    "WITH RECURSIVE w(s) AS (SELECT 'a' UNION ALL SELECT s || s FROM w WHERE length(s) < 4000000),"
    " big(s) AS (SELECT s FROM w ORDER BY length(s) DESC LIMIT 1) "
)
SQLITE_ONE_STEP = {
    "instr": "SELECT instr(s, substr(s, 1, 2000000) || 'b') FROM big",
    "replace": "SELECT length(replace(s, substr(s, 1, 2000000) || 'b', 'c')) FROM big",
    "trim": "SELECT length(trim(s, replace(substr(s, 1, 200000), 'a', char(233)) || 'a')) FROM big",
    "json": "SELECT count(*) FROM big, json_each('[' || replace(s, 'a', '[],') || '1]') x,"
    " json_each(x.value) y, big z, json_each('[' || replace(z.s, 'a', '[],') || '1]')",
    "sort": "SELECT s || value FROM big, json_each('[1,2,3,4,5]')"
    " ORDER BY instr(s, substr(s, 1, 2000000) || 'b' || value)",
    "rows": "SELECT s, n FROM big, (WITH RECURSIVE t(n) AS"
    " (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT n FROM t)",
}
"""Statements on SQLite whose single steps take seconds to minutes: no look at a clock in them."""
SQLITE_ONE_STEP = {name: _MEGABYTES + words for name, words in SQLITE_ONE_STEP.items()}

POSTGRESQL = (
    "COPY latent TO '{folder}/latents.txt'",
    "COPY latent TO PROGRAM 'cat > {folder}/latents.txt'",
    "COPY latent FROM PROGRAM 'cat /etc/passwd'",
    "COPY (SELECT 1) TO STDOUT",
    "SELECT 1 INTO mine",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_read_binary_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT pg_stat_file('/etc/passwd')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_create(0)",
    "SELECT lo_export(1, '{folder}/large')",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT lo_unlink(1)",
    "SELECT pg_sleep(3600)",
    "SELECT pg_sleep_for('1 hour')",
    "SELECT nextval('latent_id_seq')",
    "SELECT setval('latent_id_seq', 900)",
    "SELECT set_config('transaction_read_only', 'off', false), nextval('latent_id_seq')",
    "SELECT set_config('role', 'none', false)",
    "SELECT set_config('statement_timeout', '0', false)",
    "SELECT query_to_xml('delete from latent returning id', true, false, '')",
    "SELECT table_to_xml('latent'::regclass, true, false, '')",
    "SELECT database_to_xml(true, false, '')",
    "SELECT ts_stat('select to_tsvector(text) from prompt')",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity",
    "SELECT pg_cancel_backend(1)",
    "SELECT pg_reload_conf()",
    "SELECT pg_rotate_logfile()",
    "SELECT pg_switch_wal()",
    "SELECT pg_create_restore_point('mine')",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_xact_lock(7345201906)",
    "SELECT pg_notify('channel', 'message')",
    "SELECT pg_export_snapshot()",
    "SELECT pg_logical_emit_message(false, 'a', 'b')",
    "SELECT dblink('dbname=postgres', 'select 1')",
    "SELECT * FROM latent FOR UPDATE",
    "SELECT * FROM generate_series(1, 3) AS s, pg_sleep(s)",
    "SELECT id FROM latent WHERE density > (SELECT 1 FROM pg_sleep(100))",
    "SET default_transaction_read_only = off",
    "SET ROLE postgres",
    "RESET ROLE",
    "LISTEN channel",
    "LOCK TABLE latent",
    "TRUNCATE review_event",
    "GRANT ALL ON latent TO PUBLIC",
    "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE EXTENSION dblink",
    "CREATE ROLE mine SUPERUSER",
    "DO $$ BEGIN DELETE FROM latent; END $$",
    "CALL mine()",
    "PREPARE mine AS SELECT 1",
    "EXECUTE mine",
    "DECLARE mine CURSOR FOR SELECT 1",
    "EXPLAIN ANALYZE DELETE FROM latent",
    "REFRESH MATERIALIZED VIEW mine",
    "LOAD 'dblink'",
    "CHECKPOINT",
)
"""Refused on PostgreSQL."""

POSTGRESQL_BOMBS = (
    ENDLESS + "SELECT count(*) FROM t",
    "SELECT count(*) FROM generate_series(1, 100000000000)",
    "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b",
)
"""Stopped on PostgreSQL by the deadline."""

POSTGRESQL_LASTING = {
    "rows that each take a while": "SELECT n, (SELECT count(*) FROM generate_series(1, 200000 + n))"
    " FROM generate_series(1, 10000) AS n",
    "regular expression": "SELECT count(*) FROM generate_series(1, 100000) AS n"
    " WHERE regexp_replace(repeat('ab', 20000 + n), '(a|b)*?c', 'x') = ''",
    "giant values": "SELECT md5(string_agg(repeat('x', 1000000 + n), '')) FROM"
    " generate_series(1, 100000) AS n",
    "sort": "SELECT md5(n::text) AS word FROM generate_series(1, 200000000) AS n ORDER BY word",
    "cross join": "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000)",
    "numbers": "SELECT factorial(90000 + n) FROM generate_series(1, 1000) AS n",
}
"""Statements on PostgreSQL that last, whether or not a single step does."""
