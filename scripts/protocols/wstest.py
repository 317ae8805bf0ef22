"""Runs Autobahn's WebSocket cases as a client. For Python 2.7, which is what the test suite is written for.

wstest.py PACKAGES SPEC    PACKAGES is the folder that pip installed into
"""
import site
import sys

packages, spec = sys.argv[1:]
# It also makes packages of several parts (zope.interface) known, which a path alone does not.
site.addsitedir(packages)
sys.path.insert(0, packages)

from autobahntestsuite.wstest import run  # noqa: E402

sys.argv = ["wstest", "--mode", "fuzzingclient", "--spec", spec]
run()
