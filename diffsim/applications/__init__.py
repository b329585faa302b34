"""Uses that people come for, each one call.

porous      tortuosity of a voxel image, effective conductivity of a coefficient field
materials   the table of materials
walls       heat flow through a wall of layers
chips       steady temperature of a floorplan with its package
images      edge-preserving denoising
"""

from .chips import Chip, Plate, chip
from .images import Denoised, denoise, sample_slice
from .materials import Material, material, materials
from .porous import Tortuosity, effective, tortuosity
from .walls import WallSection, wall

__all__ = [
    "Chip",
    "Denoised",
    "Material",
    "Plate",
    "Tortuosity",
    "WallSection",
    "chip",
    "denoise",
    "effective",
    "material",
    "materials",
    "sample_slice",
    "tortuosity",
    "wall",
]
