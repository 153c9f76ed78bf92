"""All tables of the database, in one place to import from."""

from __future__ import annotations

from labeler.store.tables.base import NAMING_CONVENTION, Base, FreeText, OneOf, UtcDateTime, utc_now
from labeler.store.tables.judging import (
    ControlLatent,
    Explanation,
    ExplanationScore,
    Judge,
    JudgeCall,
    JudgeLabel,
    JudgeLabelCategory,
    JudgeParameters,
    LabelSample,
    Prompt,
    ScoreCall,
    ShuffledExplanation,
    WorkItem,
)
from labeler.store.tables.latents import (
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
    AuditDraw,
    AuditMember,
    CategoryChangeStatistic,
    EffectiveLabel,
    EffectiveLabelCategory,
    ReviewEvent,
    ReviewEventCategory,
)
from labeler.store.tables.robustness import (
    CategoryCorrection,
    CategorySweep,
    JudgeCorrection,
    NullResult,
    NullResultChange,
)
from labeler.store.tables.runs import Corpus, Run, SubjectModel
from labeler.store.tables.taxonomy import Category, CategoryMapping, TaxonomyVersion

metadata = Base.metadata

__all__ = [
    "NAMING_CONVENTION",
    "AuditDraw",
    "AuditMember",
    "Base",
    "Category",
    "CategoryChangeStatistic",
    "CategoryCorrection",
    "CategoryMapping",
    "CategorySweep",
    "Comparison",
    "ComparisonSetting",
    "ControlLatent",
    "Corpus",
    "Crosscoder",
    "CrosscoderModel",
    "EffectiveLabel",
    "EffectiveLabelCategory",
    "Evidence",
    "EvidenceDocument",
    "Explanation",
    "ExplanationScore",
    "FreeText",
    "Judge",
    "JudgeCall",
    "JudgeCorrection",
    "JudgeLabel",
    "JudgeLabelCategory",
    "JudgeParameters",
    "LabelSample",
    "Latent",
    "LatentScaling",
    "LatentSet",
    "LatentSetMember",
    "NullResult",
    "NullResultChange",
    "OneOf",
    "Prompt",
    "ReviewEvent",
    "ReviewEventCategory",
    "Run",
    "ScoreCall",
    "ShuffledExplanation",
    "SubjectModel",
    "TaxonomyVersion",
    "UtcDateTime",
    "WorkItem",
    "metadata",
    "utc_now",
]  # fmt: skip
