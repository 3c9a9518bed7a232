"""A Django project with Django REST framework and simplejwt, driven by lines of JSON on its standard input."""

import json
import os
import sys
from urllib.parse import urlsplit

import django
from django.conf import settings

database = urlsplit(os.environ["DATABASE_URL"])
hashers = ["PBKDF2SHA1", "Argon2", "BCryptSHA256", "BCrypt"]
validators = ["UserAttributeSimilarity", "MinimumLength", "CommonPassword", "NumericPassword"]
settings.configure(
    SECRET_KEY=os.environ["DJANGO_SECRET_KEY"],
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    AUTH_USER_MODEL=os.environ["AUTH_USER_MODEL"],
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": database.path[1:],
            "USER": database.username,
            "PASSWORD": database.password,
            "HOST": database.hostname,
            "PORT": database.port,
        }
    },
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "rest_framework",
        "rest_framework_simplejwt",
        "rest_framework_simplejwt.token_blacklist",
        *(["users"] if os.environ["AUTH_USER_MODEL"] == "users.User" else []),
    ],
    PASSWORD_HASHERS=[f"{__name__}.Hasher", *(f"django.contrib.auth.hashers.{name}PasswordHasher" for name in hashers)],
    AUTH_PASSWORD_VALIDATORS=[
        {"NAME": f"django.contrib.auth.password_validation.{name}Validator"} for name in validators
    ],
    SIMPLE_JWT={"ROTATE_REFRESH_TOKENS": True, "BLACKLIST_AFTER_ROTATION": True},
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework_simplejwt.authentication.JWTAuthentication"],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "DEFAULT_THROTTLE_RATES": {"user": "1/min"},
    },
)
django.setup()

from django.contrib.auth import authenticate, get_user_model, password_validation
from django.contrib.auth.hashers import PBKDF2PasswordHasher, make_password
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.test import Client
from django.urls import path
from rest_framework import generics, permissions, response, serializers, throttling, views
from rest_framework_simplejwt.tokens import RefreshToken
from rest_framework_simplejwt.views import TokenObtainPairView, TokenRefreshView

User = get_user_model()


class Hasher(PBKDF2PasswordHasher):
    iterations = int(os.environ.get("ITERATIONS") or PBKDF2PasswordHasher.iterations)


class Registration(serializers.ModelSerializer):
    age = serializers.IntegerField(required=False, min_value=18)
    newsletter = serializers.BooleanField(required=False)
    tags = serializers.ListField(child=serializers.CharField(), required=False)

    class Meta:
        model = User
        fields = [User.USERNAME_FIELD, "password", "age", "newsletter", "tags"]

    def validate_password(self, password):
        password_validation.validate_password(password)
        return password


class RegistrationView(generics.CreateAPIView):
    serializer_class = Registration
    authentication_classes = permission_classes = []


class Guarded(views.APIView):
    permission_classes = [permissions.IsAuthenticated]

    def get(self, request):
        return response.Response({"id": request.user.id})


class Admin(Guarded):
    permission_classes = [permissions.IsAdminUser]


class Limited(Guarded):
    permission_classes = []
    throttle_classes = [throttling.UserRateThrottle]


urlpatterns = [
    path("api/register/", RegistrationView.as_view()),
    path("api/login/", TokenObtainPairView.as_view()),
    path("auth/refresh/", TokenRefreshView.as_view()),
    path("guarded/", Guarded.as_view()),
    path("admin/", Admin.as_view()),
    path("limited/", Limited.as_view()),
]


def shown(user):
    fields = ["id", "email", "password", "is_active", "is_staff", "last_name", User.USERNAME_FIELD]
    return {name: getattr(user, name) for name in fields} | {"date_joined": user.date_joined.timestamp()}


def create(hasher=None, password=None, **fields):
    user = User.objects.create_user(password=password, **fields)
    if hasher:
        user.password = make_password(password, hasher=hasher)
        user.save()
    return shown(user)


def save(id, password=None, **fields):
    user = User.objects.get(id=id)
    for name, value in fields.items():
        setattr(user, name, value)
    if password is not None:
        user.set_password(password)
    user.save()
    return shown(user)


def log_in(**credentials):
    user = authenticate(**credentials)
    return user and user.id


def join_group(id, name):
    User.objects.get(id=id).groups.add(Group.objects.get_or_create(name=name)[0])


def tokens(id):
    refresh = RefreshToken.for_user(User.objects.get(id=id))
    return {"refresh": str(refresh), "access": str(refresh.access_token)}


def request(method, url, body="", type="application/json", **headers):
    answer = Client().generic(method, url, body, content_type=type, **headers)
    kept = {name.lower(): answer[name] for name in ["WWW-Authenticate", "Retry-After"] if answer.has_header(name)}
    return {"status": answer.status_code, "body": answer.json(), "headers": kept}


commands = {
    "create": create,
    "find": lambda **fields: [shown(user) for user in User.objects.filter(**fields).order_by("id")],
    "save": save,
    "update": lambda id, **fields: User.objects.filter(id=id).update(**fields),
    "delete": lambda id: User.objects.get(id=id).delete()[0],
    "log_in": log_in,
    "join_group": join_group,
    "tokens": tokens,
    "request": request,
}

call_command("migrate", verbosity=0)
for line in sys.stdin:
    name, arguments = json.loads(line)
    try:
        print(json.dumps([commands[name](**arguments)]), flush=True)
    except Exception as error:
        print(json.dumps({"error": repr(error)}), flush=True)
