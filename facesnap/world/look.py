"""A look: everything that changes from picture to picture of one person; a prompt controls most of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from facesnap.world import palette
from facesnap.world.expressions import CameraView
from facesnap.world.person import SyntheticPerson
from facesnap.world.seeds import stream

HAIR: dict[str, float] = {
    "bald": 0.06,
    "buzz cut": 0.08,
    "short": 0.13,
    "side parting": 0.11,
    "quiff": 0.09,
    "bob": 0.11,
    "short with fringe": 0.09,
    "long": 0.13,
    "long with fringe": 0.08,
    "afro": 0.06,
    "bun": 0.06,
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
LIGHTS: dict[str, float] = {
    "soft": 0.34,
    "left": 0.13,
    "right": 0.13,
    "top": 0.1,
    "warm": 0.12,
    "cool": 0.12,
    "dramatic": 0.06,
}
STYLES: dict[str, float] = {"photo": 0.62, "painting": 0.13, "comic": 0.11, "poster": 0.11, "sketch": 0.03}
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

        def pick(odds: dict[str, float]) -> str:
            return str(rng.choice(list(odds), p=list(odds.values())))

        return Look(
            hair=pick(HAIR),
            hair_colour=pick(HAIR_COLOURS),
            glasses=pick(GLASSES),
            beard=pick(BEARDS) if person.masculine >= BEARD_FROM else "none",
            garment=pick(GARMENTS),
            clothing_colour=str(rng.choice(list(palette.CLOTHES))),
            background=str(rng.choice(list(palette.BACKGROUNDS))),
            backdrop=str(rng.choice(BACKDROPS)),
            light=pick(LIGHTS),
            style=pick(STYLES),
            view=CameraView.sample(rng),
            seed=int(rng.randint(1 << 30)),
        )

    def attributes(self) -> dict[str, Any]:
        """The look as plain data, without the view."""
        return {name: value for name, value in asdict(self).items() if name != "view"}
