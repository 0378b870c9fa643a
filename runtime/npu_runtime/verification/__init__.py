"""Do the models of the machine agree?"""
