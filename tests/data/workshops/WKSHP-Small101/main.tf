name = "lab-{{ STDID }}"
