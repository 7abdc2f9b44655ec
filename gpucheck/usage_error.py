"""What is raised where the call, an input or the machine is at fault: no defect of ours."""


class UsageError(Exception):
    """Its text is one line saying which, where and why; the exit status is 2."""


class NoAnswerError(Exception):
    """A file system did not answer; its text is one line saying which. The exit status is 1."""


class CollectionError(Exception):
    """The examination as a whole broke off, and nothing is known of the machine.

    Its text is one line saying how. The exit status is 3.
    """
