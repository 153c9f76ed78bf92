-- Latents of the sides that come again in at least half of the other training seeds
select comparison, side, crosscoder, latent_index, latent_id, category, outcome, explanation,
       p_reappear, n_seeds, best_cosine, span_match, strength_shift
from v_effective_label
where rank = 1 and p_reappear >= 0.5
order by comparison, side desc, p_reappear desc, best_cosine desc, latent_id
