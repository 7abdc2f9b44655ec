"""What is raised where the call or an input is wrong: the user's to mend, and no defect."""


class Refusal(Exception):  # noqa: N818 - it is a message for the user, not an error of ours
    """Its text is one line saying which, where and why; the exit status is 2."""
