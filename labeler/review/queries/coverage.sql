-- How many latents of each side are labelled and reviewed
select comparison, side, isolated, labelled, assigned, "none", uninterpretable, error,
       too_long, refused, unlabelled, reviewed
from v_coverage
order by comparison, side desc
