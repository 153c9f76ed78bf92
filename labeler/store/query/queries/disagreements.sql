-- Where people decided against the judge
select comparison, side, judge_category, human_category, n, n_blind
from v_judge_vs_human
where coalesce(judge_category, '') <> coalesce(human_category, '')
order by n desc, comparison, side desc, judge_category, human_category
