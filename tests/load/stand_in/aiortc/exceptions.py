"""Never raised here."""


class InvalidAccessError(Exception):
    pass


class OperationError(Exception):
    pass
