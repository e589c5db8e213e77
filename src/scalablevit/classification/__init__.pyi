from .data import ImageFolderData as ImageFolderData
from .predict import Classifier as Classifier
from .predict import Prediction as Prediction
from .task import ClassificationTask as ClassificationTask
from .task import MixupSettings as MixupSettings
from .transforms import Augmentation as Augmentation
from .transforms import Preprocessing as Preprocessing
