"""The schema of params.yaml: one frozen block per stage, units in the names, nothing guessed.

A class is a block; `config.load.load_config` reads the file. A new knob goes into the block of
the stage that reads it, into params.yaml, and nowhere else.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

SamplerName = Literal[
    "ddpm", "ddim", "heun", "dpm_solver_pp_2m", "sde_dpm_solver_pp_2m", "uni_pc", "hierarchical"
]
ExtractorName = Literal["efficientnet_lite0", "inception"]
ParameterisationName = Literal["noise", "velocity", "clean"]
ScheduleName = Literal["linear", "cosine", "karras"]
LearningRateScheduleName = Literal["constant", "cosine", "one_cycle", "inverse_square_root"]
ClippingName = Literal["none", "global", "adaptive"]
NormalisationName = Literal["none", "pixel", "group"]
ChannelAttentionName = Literal["none", "squeeze_excite", "cbam"]
DownsamplingName = Literal["blur", "strided"]

TREE_PATCH_PX = 2


class Section(BaseModel):
    """A block of params.yaml: no unknown keys, no guessing of types, no change afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ValidateDataConfig(Section):
    """The data contract: what an image must be to enter, and how many may fail."""

    max_quarantined_share: Share
    min_side_px: Positive
    max_side_px: Positive
    blank_max_std: Annotated[float, Field(ge=0, le=255)]
    min_images_per_class: Count
    num_processes: Positive

    @model_validator(mode="after")
    def _sides_in_order(self) -> Self:
        if self.min_side_px > self.max_side_px:
            raise ValueError("min_side_px must not exceed max_side_px")
        return self


class PrepareDataConfig(Section):
    """The size and colours the model sees, and how images are split."""

    image_size_px: Annotated[int, Field(ge=8, le=1024)]
    num_channels: Literal[1, 3]
    validation_share: Annotated[float, Field(gt=0, lt=0.5)]
    test_share: Annotated[float, Field(gt=0, lt=0.5)]


class ComputeReferenceConfig(Section):
    """Features of real images, against which everything generated or new is judged."""

    extractor: ExtractorName
    extractor_size_px: Annotated[int, Field(ge=32, le=512)]
    extractor_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    num_images: Annotated[int, Field(ge=10)]
    classifier_epochs: Positive
    batch_images: Positive
    seed: Count


class TreeConfig(Section):
    """What a tree has beyond a U-Net; see docs/tree-diffusion.md."""

    threshold: PositiveFloat | None
    is_fused: bool
    normalisation: NormalisationName
    channel_attention: ChannelAttentionName
    downsampling: DownsamplingName
    has_cross_attention: bool
    fine_crop_share: Annotated[float, Field(gt=0, le=1)]


class ModelConfig(Section):
    """The network. `name` picks the architecture in models/build.py; `tree` is read by a tree."""

    name: Literal["unet", "tree"]
    channels: Annotated[list[Positive], Field(min_length=1, max_length=6)]
    blocks_per_level: Positive
    patch_px: Literal[1, 2, 4]
    attention_heads: Count
    embedding_channels: Positive
    tree: TreeConfig | None = None  # models of before there were trees have no such block

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.name == "tree" and self.tree is None:
            raise ValueError("name: tree needs the block train.model.tree")
        if self.name == "tree" and self.patch_px != TREE_PATCH_PX:
            raise ValueError(f"name: tree needs patch_px: {TREE_PATCH_PX}, the Haar split")
        return self

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if any(width % 8 for width in self.channels):
            raise ValueError("every entry of channels must be a multiple of 8")
        if self.attention_heads and self.channels[-1] % self.attention_heads:
            raise ValueError("the last entry of channels must be a multiple of attention_heads")
        if self.embedding_channels % 2:
            raise ValueError("embedding_channels must be even")
        return self

    @property
    def size_divisor_px(self) -> int:
        """What the image size must be a multiple of."""
        return int(self.patch_px * 2 ** (len(self.channels) - 1))


class DiffusionConfig(Section):
    """What the network predicts, and which noise it sees while it learns."""

    parameterisation: ParameterisationName
    schedule: ScheduleName
    sigma_data: PositiveFloat
    sigma_min: PositiveFloat
    sigma_max: PositiveFloat
    train_log_sigma_mean: Annotated[float, Field(allow_inf_nan=False)]
    train_log_sigma_std: PositiveFloat
    loss_weight: Literal["edm", "min_snr", "uniform"]

    @model_validator(mode="after")
    def _sigmas_in_order(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError("sigma_min must be below sigma_max")
        return self


class LossConfig(Section):
    """Weights of what a tree learns beside its finest branch; see docs/tree-diffusion.md."""

    coarse_weight: NonNegative
    consistency_weight: NonNegative
    handover_weight: NonNegative
    detail_weight: NonNegative
    perceptual_weight: NonNegative
    perceptual_max_sigma: PositiveFloat


class SamplingConfig(Section):
    """How images are made from noise, wherever the model is judged, timed and served."""

    sampler: SamplerName
    num_steps: Positive
    guidance: Annotated[float, Field(ge=0, le=20)]
    guidance_interval: Annotated[list[float], Field(min_length=2, max_length=2)]
    adaptive_threshold: Annotated[float, Field(gt=0)] | None = None  # older bundles have none

    @model_validator(mode="after")
    def _interval_in_order(self) -> Self:
        low, high = self.guidance_interval
        if not 0 <= low < high:
            raise ValueError("guidance_interval must be [low, high] in sigma with 0 <= low < high")
        return self


class TrainConfig(Section):
    """One training run. Lengths count images, so they survive a change of batch size."""

    seed: Count
    initial_model: Annotated[str, Field(min_length=1)] | None
    total_images: Positive
    batch_images: Positive
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    learning_rate_schedule: LearningRateScheduleName
    warmup_images: Count
    weight_decay: Annotated[float, Field(ge=0, lt=1)]
    adam_beta2: Annotated[float, Field(gt=0, lt=1)]
    gradient_clipping: ClippingName
    max_gradient_norm: PositiveFloat
    max_gradient_ratio: PositiveFloat
    max_loss_jump: Annotated[float, Field(gt=1, allow_inf_nan=False)]
    label_dropout: Share
    ema_halflives_images: Annotated[list[Positive], Field(min_length=1, max_length=4)]
    early_stopping_images: Count

    precision: Literal["fp32", "bf16", "fp16"]
    num_micro_batches: Positive
    gradient_checkpointing: bool
    compile: bool
    engine: Literal["torchrun", "ray"]
    num_processes: Positive
    sharding: Literal["none", "full"]
    sync_batch_norm: bool
    heartbeat_s: PositiveFloat
    max_restarts: Count

    log_every_images: Positive
    validate_every_images: Positive
    checkpoint_every_images: Positive
    preview_every_images: Positive
    num_validation_images: Positive
    keep_checkpoints: Positive
    model: ModelConfig
    diffusion: DiffusionConfig
    loss: LossConfig

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        for name in (
            "total_images",
            "log_every_images",
            "validate_every_images",
            "checkpoint_every_images",
            "preview_every_images",
        ):
            if getattr(self, name) % self.batch_images:
                nearest = max(1, round(getattr(self, name) / self.batch_images)) * self.batch_images
                raise ValueError(
                    f"{name} must be a multiple of batch_images ({self.batch_images}); "
                    f"write {name}: {nearest}"
                )
        num_parts = self.num_processes * self.num_micro_batches
        if self.batch_images % num_parts:
            raise ValueError(
                f"batch_images must be a multiple of num_processes x num_micro_batches; "
                f"write batch_images: {-(-self.batch_images // num_parts) * num_parts}"
            )
        if self.warmup_images >= self.total_images:
            raise ValueError(
                f"warmup_images must be below total_images ({self.total_images}); "
                f"write warmup_images: {self.total_images // 40}"
            )
        return self

    def for_processes(self, num_processes: int) -> Self:
        """The same settings for as many processes as there really are.

        Raises:
            ValueError: When the batch does not divide among them.
        """
        return type(self).model_validate({**self.model_dump(), "num_processes": num_processes})

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if len(set(self.ema_halflives_images)) < len(self.ema_halflives_images):
            raise ValueError("ema_halflives_images must differ from each other")
        if self.sharding == "full" and self.precision == "fp16":
            raise ValueError(
                "precision: fp16 does not go with sharding: full; write precision: bf16"
            )
        if self.sharding == "full" and self.gradient_clipping == "adaptive":
            raise ValueError(
                "gradient_clipping: adaptive needs whole rows, which sharding: full cuts; "
                "write gradient_clipping: global"
            )
        if self.sharding == "full" and self.model.name == "tree":
            raise ValueError(
                "sharding: full needs every process to compute with the same weights at each step, "
                "but which branches of a tree it needs depends on its own images; "
                "write sharding: none (or model.name: unet)"
            )
        if self.early_stopping_images and self.validate_every_images % self.checkpoint_every_images:
            raise ValueError(
                "validate_every_images must be a multiple of checkpoint_every_images when "
                "early_stopping_images is set, so that the best moment was saved; "
                f"write checkpoint_every_images: {self.validate_every_images}"
            )
        return self


class SampleConfig(Section):
    """How many images are made for evaluation; `sampling` says how."""

    num_images: Positive
    seed: Count
    batch_images: Positive


class EvaluateConfig(Section):
    """Which figures are computed, on how many images."""

    num_bootstrap: Annotated[int, Field(ge=10)]
    num_neighbours: Positive
    num_memorisation_images: Positive
    num_noise_levels: Annotated[int, Field(ge=3)]
    num_denoising_images: Positive
    classifier_epochs: Positive
    seed: Count


class CheckDriftConfig(Section):
    """Whether the current data still looks like what the champion was trained on."""

    num_images: Annotated[int, Field(ge=20)]
    num_components: Annotated[int, Field(ge=2)]
    num_permutations: Annotated[int, Field(ge=99)]
    level: Annotated[float, Field(gt=0, lt=0.5)]
    min_auc: Annotated[float, Field(ge=0.5, lt=1)]
    min_discrepancy: Annotated[float, Field(ge=0, lt=1)]
    min_component_distance: Share
    min_outlier_share: Share
    min_label_distance: Share
    num_generated: Annotated[int, Field(ge=0)]
    seed: Count


class MonitorConfig(Section):
    """Which new images are watched, and when they are reason enough to train again."""

    source: Annotated[str, Field(min_length=1)]
    min_images: Annotated[int, Field(ge=20)]
    max_images: Annotated[int, Field(ge=20)]
    retrain_after_images: Positive | None
    retrain_after_days: PositiveFloat | None
    cooldown_hours: PositiveFloat

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.max_images < self.min_images:
            raise ValueError(
                f"max_images ({self.max_images}) must be at least min_images ({self.min_images})"
            )
        return self


class JudgeMargins(Section):
    """How much worse than the champion a candidate may be, figure by figure."""

    label_agreement: Share
    copied_share: Share
    near_equal_share: Share
    recall: Share
    coverage: Share
    unusable_share: Share
    denoising_loss: Share
    latency: NonNegative


class JudgeConfig(Section):
    """The gate: absolute limits, then the difference to the champion beyond its uncertainty."""

    max_frechet_over_floor: PositiveFloat
    min_label_agreement: Share
    max_copied_share: Share
    max_near_equal_share: Share
    min_recall_over_floor: Share
    min_coverage_over_floor: Share
    max_unusable_share: Share
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    superiority_confidence: Annotated[float, Field(gt=0.5, lt=1)]
    min_relative_gain: Annotated[float, Field(ge=0, lt=1)]
    detectable_relative_gain: Annotated[float, Field(gt=0, lt=1)]
    margins: JudgeMargins
    require_clean_tree: bool
    latency_batch_images: Positive
    latency_budget_s: NonNegative


class RegisterConfig(Section):
    """Where the candidate goes in the registry."""

    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    experiment: Annotated[str, Field(min_length=1)]
    provider: str | None = None
    contact: str | None = None


class PromoteConfig(Section):
    """The check in a clean process before the alias moves, and what is measured after it."""

    num_check_images: Annotated[int, Field(ge=2)]
    check_timeout_s: Positive
    measure_champion: bool


class Config(Section):
    """All of params.yaml."""

    validate_data: ValidateDataConfig
    prepare_data: PrepareDataConfig
    compute_reference: ComputeReferenceConfig
    train: TrainConfig
    sampling: SamplingConfig
    sample: SampleConfig
    evaluate: EvaluateConfig
    check_drift: CheckDriftConfig
    monitor: MonitorConfig
    judge: JudgeConfig
    registration: Annotated[RegisterConfig, Field(alias="register")]  # pydantic owns `register`
    promote: PromoteConfig

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        size_px, divisor_px = self.prepare_data.image_size_px, self.train.model.size_divisor_px
        if size_px % divisor_px:
            fitting_px = -(-size_px // divisor_px) * divisor_px
            raise ValueError(
                f"prepare_data.image_size_px ({size_px}) must be a multiple of {divisor_px} "
                f"(train.model.patch_px x 2 per further level of channels); "
                f"write image_size_px: {fitting_px}, or give the model fewer channels levels"
            )
        return self
