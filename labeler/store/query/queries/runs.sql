-- Every run of a stage, newest first
select run_id, kind, status, started_at, finished_at, code_version
from v_run
order by run_id desc
