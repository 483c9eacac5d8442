"""Personal data and secrets: found by their form and their check digits, and masked.

What has a form is found: addresses, numbers, keys. Names, streets and stories have none, and are not.
"""
