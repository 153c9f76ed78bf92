-- What to look at next
select comparison, side, latent_id, reason, priority, disagreement, confidence, selection,
       inclusion_prob
from v_review_queue
order by priority desc, latent_id
limit 200
