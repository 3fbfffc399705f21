"""Whose certificates are believed when a provider is called by https."""

import os
import ssl
from functools import lru_cache

import certifi

from routing.types import ProviderError

NOT_TRUSTED = "SSL_CERT_FILE names the certificates to trust instead of the usual ones"


def ssl_context() -> ssl.SSLContext:
    """certifi's certificates, or those that SSL_CERT_FILE and SSL_CERT_DIR name instead, as everywhere else.

    Raises ProviderError where these cannot be read.
    """
    return _ssl_context(os.environ.get("SSL_CERT_FILE", ""), os.environ.get("SSL_CERT_DIR", ""))


@lru_cache(maxsize=4)
def _ssl_context(file: str, folder: str) -> ssl.SSLContext:
    if not file and not folder:
        return ssl.create_default_context(cafile=certifi.where())
    if folder and not any(os.path.isdir(one) for one in folder.split(os.pathsep)):  # OpenSSL takes it for empty
        raise _unreadable("SSL_CERT_DIR names no folder")
    try:
        return ssl.create_default_context(cafile=file or None, capath=folder or None)
    except (OSError, ValueError):  # OpenSSL's own errors are OSErrors
        raise _unreadable("SSL_CERT_FILE or SSL_CERT_DIR names no certificates that can be read") from None


def _unreadable(reason: str) -> ProviderError:
    return ProviderError("connection", reason, retryable=False)


def tls_failure(error: ssl.SSLError) -> str:
    """What is wrong, for people who can mend it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS failed: {error.verify_message.rstrip('.')}; {NOT_TRUSTED}"
    if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
        return f"TLS failed: {error.reason}; is the server's address one with http:// instead?"
    return f"TLS failed: {error.reason}"
