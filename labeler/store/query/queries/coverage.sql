-- What is labelled, uninterpretable, in error and reviewed on each side
select comparison, side, isolated, labelled, assigned, none, uninterpretable, error, too_long,
       refused, unlabelled, reviewed
from v_coverage
order by comparison, side desc
