-- What to review first
select comparison, side, latent_id, reason, priority, disagreement, confidence, selection
from v_review_queue
order by priority desc, comparison, side desc, latent_id
