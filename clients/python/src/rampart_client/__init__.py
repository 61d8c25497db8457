"""A client of Rampart: logins that last, and predictions by feature name."""

from .call import Model
from .client import AsyncClient, Client
from .credentials import ClientCredentials, Credentials, Password, RefreshToken, TokenFile
from .error import FieldError, RampartError
from .features import Predictions
from .session import Session

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Client",
    "ClientCredentials",
    "Credentials",
    "FieldError",
    "Model",
    "Password",
    "Predictions",
    "RampartError",
    "RefreshToken",
    "Session",
    "TokenFile",
]
