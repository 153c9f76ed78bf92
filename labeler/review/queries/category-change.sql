-- Percentage change of each category
select comparison, category, target_count, target_total, reference_count, reference_total,
       percent_change
from v_category_change
where is_leaf and target_count + reference_count > 0
order by comparison, percent_change desc, category
