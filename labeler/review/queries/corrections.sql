-- Where people corrected the judge, most frequent first
select comparison, side, judge_category, human_category, n, n_blind
from v_judge_vs_human
where judge_category <> human_category
order by n desc, judge_category, human_category
