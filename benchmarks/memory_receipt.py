def receipt(*a):
    raise SystemExit("later")
