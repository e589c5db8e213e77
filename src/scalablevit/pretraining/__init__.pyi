from .data import UnlabelledImageData as UnlabelledImageData
from .distilled import DistilledPretraining as DistilledPretraining
from .masked import MaskedPretraining as MaskedPretraining
