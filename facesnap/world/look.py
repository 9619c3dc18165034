"""A look: everything that changes from picture to picture of one person; a prompt controls most of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from facesnap.world import palette
from facesnap.world.expressions import CameraView
from facesnap.world.person import SyntheticPerson
from facesnap.world.seeds import pick, stream

# How often each value is drawn and, in most tables, how a caption says it; {} takes the colour, and an article stands
# before what can be counted.
HAIR: dict[str, tuple[float, str]] = {
    "bald": (0.06, "a bald head"),
    "buzz cut": (0.08, "a {} buzz cut"),
    "short": (0.13, "short {} hair"),
    "side parting": (0.11, "{} hair with a side parting"),
    "quiff": (0.09, "a {} quiff"),
    "bob": (0.11, "a {} bob"),
    "short with fringe": (0.09, "short {} hair with a fringe"),
    "long": (0.13, "long {} hair"),
    "long with fringe": (0.08, "long {} hair with a fringe"),
    "afro": (0.06, "a {} afro"),
    "bun": (0.06, "{} hair in a bun"),
}
HAIR_COLOURS: dict[str, float] = {
    "black": 0.19,
    "brown": 0.2,
    "blond": 0.17,
    "red": 0.12,
    "grey": 0.1,
    "white": 0.08,
    "blue": 0.07,
    "pink": 0.07,
}
GLASSES: dict[str, float] = {"none": 0.8, "round": 0.08, "square": 0.08, "sunglasses": 0.04}
# Of people with a masculine head; the others have none.
BEARDS: dict[str, float] = {"none": 0.52, "stubble": 0.12, "moustache": 0.12, "goatee": 0.12, "full": 0.12}
BEARD_FROM = 0.5  # gender slider from which a beard may grow
GARMENTS: dict[str, float] = {"t-shirt": 0.3, "v-neck": 0.2, "turtleneck": 0.25, "hoodie": 0.25}
LIGHTS: dict[str, tuple[float, str]] = {
    "soft": (0.34, "soft light"),
    "left": (0.13, "light from the left"),
    "right": (0.13, "light from the right"),
    "top": (0.1, "light from above"),
    "warm": (0.12, "warm light"),
    "cool": (0.12, "cool light"),
    "dramatic": (0.06, "dramatic light"),
}
STYLES: dict[str, tuple[float, str]] = {
    "photo": (0.62, "a photo of a person"),
    "painting": (0.13, "an oil painting of a person"),
    "comic": (0.11, "a comic drawing of a person"),
    "poster": (0.11, "a poster of a person"),
    "sketch": (0.03, "a pencil sketch of a person"),
}
BACKDROPS = ("plain", "gradient", "halo", "bokeh")  # a prompt does not name these


@dataclass(frozen=True)
class Look:
    """One picture's attributes. Every field but `backdrop`, `view` and `seed` has a word in the caption.

    Attributes:
        seed: of everything that no word describes, such as the strands of the hair.
    """

    hair: str = "short"
    hair_colour: str = "brown"
    glasses: str = "none"
    beard: str = "none"
    garment: str = "t-shirt"
    clothing_colour: str = "blue"
    background: str = "grey"
    backdrop: str = "plain"
    light: str = "soft"
    style: str = "photo"
    view: CameraView = field(default_factory=CameraView)
    seed: int = 0

    @staticmethod
    def sample(picture: int, person: SyntheticPerson) -> Look:
        """The look of a person's `picture`-th picture (0, 1, ...)."""
        rng = stream("look", person.seed, picture)
        return Look(
            hair=pick(rng, HAIR),
            hair_colour=pick(rng, HAIR_COLOURS),
            glasses=pick(rng, GLASSES),
            beard=pick(rng, BEARDS) if person.masculine >= BEARD_FROM else "none",
            garment=pick(rng, GARMENTS),
            clothing_colour=str(rng.choice(list(palette.CLOTHES))),
            background=str(rng.choice(list(palette.BACKGROUNDS))),
            backdrop=str(rng.choice(BACKDROPS)),
            light=pick(rng, LIGHTS),
            style=pick(rng, STYLES),
            view=CameraView.sample(rng),
            seed=int(rng.randint(1 << 30)),
        )

    def attributes(self) -> dict[str, Any]:
        """The look as plain data, without the view."""
        return {name: value for name, value in asdict(self).items() if name != "view"}
