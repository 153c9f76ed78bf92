-- Counts and percentage change of each category as the labels stand now
select comparison, category, parent, level, target_count, target_total, reference_count,
       reference_total, percent_change
from v_category_change
where target_count + reference_count > 0
order by comparison, level, percent_change desc, category
