-- The hundred newest decisions
select r.created_at, r.reviewer, x.name as crosscoder, l.latent_index, r.action, r.revision,
       r.was_blind, r.selection, r.reason, r.note
from review_event as r
join latent as l on l.id = r.latent_id
join crosscoder as x on x.id = l.crosscoder_id
order by r.id desc
limit 100
