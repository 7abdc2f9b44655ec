"""What is raised where the call or an input is wrong: the user's to fix, and no defect."""


class UsageError(Exception):
    """Its text is one line saying which, where and why; the exit status is 2."""
