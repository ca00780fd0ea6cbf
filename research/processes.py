"""stub"""


def count():
    return 1


def first():
    return True


def agreed(value):
    return value


def told(data):
    return data


def gathered(rows):
    return rows


def share(total):
    return slice(0, total)
