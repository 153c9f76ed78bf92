"""All tables of the database, in one place to import from."""

from __future__ import annotations

from labeler.store.tables.audit import AuditDraw, AuditMember
from labeler.store.tables.base import NAMING_CONVENTION, Base, FreeText, UtcDateTime, utc_now
from labeler.store.tables.judging import (
    CALL_STAGES,
    CALL_STATUSES,
    ENDPOINT_KINDS,
    LABEL_OUTCOMES,
    SCORE_METHODS,
    Explanation,
    ExplanationScore,
    Judge,
    JudgeCall,
    JudgeLabel,
    JudgeLabelCategory,
    Prompt,
    WorkItem,
)
from labeler.store.tables.latents import (
    EVIDENCE_KINDS,
    RULES,
    SIDES,
    SPLITS,
    Comparison,
    ComparisonSetting,
    Crosscoder,
    CrosscoderModel,
    Evidence,
    EvidenceDocument,
    Latent,
    LatentScaling,
    LatentSet,
    LatentSetMember,
)
from labeler.store.tables.review import (
    EFFECTIVE_OUTCOMES,
    REVIEW_ACTIONS,
    SELECTIONS,
    SOURCES,
    VERDICTS,
    CategoryChangeStatistic,
    EffectiveLabel,
    EffectiveLabelCategory,
    ReviewEvent,
    ReviewEventCategory,
)
from labeler.store.tables.runs import RUN_KINDS, RUN_STATUSES, Corpus, Run, SubjectModel
from labeler.store.tables.scores import (
    ControlLatent,
    LabelSample,
    ScoreCall,
    ShuffledExplanation,
)
from labeler.store.tables.taxonomy import (
    MAPPING_KINDS,
    Category,
    CategoryMapping,
    TaxonomyVersion,
)

metadata = Base.metadata

__all__ = [
    "CALL_STAGES", "CALL_STATUSES", "EFFECTIVE_OUTCOMES", "ENDPOINT_KINDS", "EVIDENCE_KINDS",
    "LABEL_OUTCOMES", "MAPPING_KINDS", "NAMING_CONVENTION", "REVIEW_ACTIONS", "RULES",
    "RUN_KINDS", "RUN_STATUSES", "SCORE_METHODS", "SELECTIONS", "SIDES", "SOURCES", "SPLITS",
    "VERDICTS", "AuditDraw", "AuditMember", "Base", "Category", "CategoryChangeStatistic",
    "CategoryMapping", "Comparison", "ComparisonSetting", "ControlLatent", "Corpus",
    "Crosscoder", "CrosscoderModel", "EffectiveLabel", "EffectiveLabelCategory", "Evidence",
    "EvidenceDocument", "Explanation", "ExplanationScore", "FreeText", "Judge", "JudgeCall",
    "JudgeLabel", "JudgeLabelCategory", "LabelSample", "Latent", "LatentScaling", "LatentSet",
    "LatentSetMember", "Prompt", "ReviewEvent", "ReviewEventCategory", "Run", "ScoreCall",
    "ShuffledExplanation", "SubjectModel", "TaxonomyVersion", "UtcDateTime", "WorkItem",
    "metadata", "utc_now",
]  # fmt: skip
