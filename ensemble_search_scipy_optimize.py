#!/usr/bin/env python3
"""ensemble_search.py under the name that its users type: ./ensemble_search_scipy_optimize.py best oof1.npy oof2.npy"""

from ensemble_search import main, run

if __name__ == "__main__":
    run(main)
