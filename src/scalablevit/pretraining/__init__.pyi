from .data import UnlabelledImageData as UnlabelledImageData
from .masked import MaskedPretraining as MaskedPretraining
