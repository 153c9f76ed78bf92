-- Change of each category, with its interval and verdict as of the newest report
select comparison, category, parent, target_count, target_total, reference_count, reference_total,
       printed_change, ci_low, ci_high, q_value, verdict, is_stale
from v_category_change_statistic
where counting = 'primary' and weighting = 'none' and target_count + reference_count > 0
order by comparison, level, percent_change desc, category
