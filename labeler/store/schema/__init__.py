"""All tables of the database, in one place to import from."""

from __future__ import annotations

from labeler.store.schema.base import NAMING_CONVENTION, Base, FreeText, OneOf, UtcDateTime, utc_now
from labeler.store.schema.behaviour import BehaviourAnswer, BehaviourLabel, CategoryBehaviour
from labeler.store.schema.effects import CategoryEffect, LatentEffect
from labeler.store.schema.judging import (
    ControlLatent,
    Explanation,
    ExplanationScore,
    ExplanationTest,
    ExplanationTestText,
    Judge,
    JudgeCall,
    JudgeCheck,
    JudgeLabel,
    JudgeLabelCategory,
    JudgeParameters,
    LabelSample,
    Prompt,
    ScoreCall,
    ShuffledExplanation,
    WorkItem,
)
from labeler.store.schema.results import (
    AuditDraw,
    AuditMember,
    CategoryChangeStatistic,
    CategoryCorrection,
    CategorySweep,
    EffectiveLabel,
    EffectiveLabelCategory,
    JudgeCorrection,
    NullResult,
    NullResultChange,
    ReviewEvent,
    ReviewEventCategory,
    SeedChange,
)
from labeler.store.schema.study import (
    Category,
    CategoryMapping,
    Comparison,
    ComparisonSeed,
    ComparisonSetting,
    Corpus,
    Crosscoder,
    CrosscoderModel,
    Evidence,
    EvidenceDocument,
    Latent,
    LatentScaling,
    LatentSet,
    LatentSetMember,
    Run,
    SideDraw,
    SubjectModel,
    TaxonomyVersion,
)

metadata = Base.metadata
