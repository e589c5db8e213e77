from .cam import layer_cam as layer_cam
from .methods import METHODS as METHODS
from .methods import Method as Method
from .subject import Explanation as Explanation
from .subject import Frame as Frame
from .subject import Subject as Subject
from .subject import Target as Target
