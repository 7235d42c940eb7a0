print("no marks at all")
