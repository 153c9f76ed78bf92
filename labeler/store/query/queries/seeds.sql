-- Change of each category by each training seed alone
select comparison, category, seed, target_count, target_total, reference_count, reference_total,
       percent_change, q_value, verdict, relative_shift, relative_shift_q
from v_seed_change
where target_count + reference_count > 0
order by comparison, level, category, seed
